"""mSwitch for transformers 4 and 5: T5's classes, with routed experts in sparse layers.

`mswitch export-hf` writes this file beside the weights; `from_pretrained` loads it with
`trust_remote_code=True`. No token is dropped, in training either. Routers compute in float32.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.activations import ACT2FN


class MSwitchConfig(T5Config):
    """T5's configuration, and the place and kind of the experts.

    `mswitch` has the settings of routing and training, under their names in mswitch.
    """

    model_type = "mswitch"

    def __init__(
        self,
        tied_embeddings=False,
        num_experts=1,
        sparse_every=1,
        shared_position_bias=True,
        mswitch=None,
        **kwargs,
    ):
        # transformers 5 ties every T5, and keeps only how T5 then scales the decoder's output.
        kwargs.pop("scale_decoder_outputs", None)
        super().__init__(**{**kwargs, "tie_word_embeddings": tied_embeddings})
        self.tied_embeddings = tied_embeddings
        self.num_experts = num_experts
        self.sparse_every = sparse_every
        self.shared_position_bias = shared_position_bias
        self.mswitch = {"routing": "learned", **(mswitch or {})}


class MSwitchExperts(nn.Module):
    """A router and its experts, in the place of a dense feed-forward layer.

    Attributes:
        ids: ids of the tokens that the stack reads, [batch, length].
        real: mask of tokens that count in the loss; None counts all.
        loss: balance loss and z-loss of the last batch, weighted, in training.
    """

    def __init__(self, config):
        super().__init__()
        self.settings, experts = config.mswitch, config.num_experts
        by_hash, by_token = (self.settings["routing"] == name for name in ("hash", "token"))
        self.experts = experts
        self.router = None if by_hash else nn.Linear(config.d_model, experts, bias=False)
        self.table = nn.Embedding(config.vocab_size, experts) if by_token else None
        shape = (experts, config.d_model, config.d_ff)
        self.wi_0 = nn.Parameter(torch.empty(shape))
        self.wi_1 = nn.Parameter(torch.empty(shape)) if config.is_gated_act else None
        self.wo = nn.Parameter(torch.empty(experts, config.d_ff, config.d_model))
        self.activate = ACT2FN[config.dense_act_fn]
        self.ids = self.real = self.loss = None

    def forward(self, hidden_states):
        """Apply to each token the expert that the router chooses, times the router's gate."""
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        expert, gate = self.route(x)
        order = expert.argsort()
        counts = torch.bincount(expert, minlength=self.experts).tolist()
        gated = [None] * self.experts if self.wi_1 is None else self.wi_1.unbind()
        kernels = zip(self.wi_0.unbind(), gated, self.wo.unbind(), strict=True)
        parts = [
            self.apply_expert(part, *own) if len(part) else part
            for part, own in zip(x[order].split(counts), kernels, strict=True)
        ]
        y = torch.cat(parts)[order.argsort()]
        return (y.float() * gate[:, None]).to(hidden_states.dtype).view(hidden_states.shape)

    def apply_expert(self, x, wi_0, wi_1, wo):
        """Apply one expert to its tokens."""
        hidden = self.activate(x @ wi_0)
        if wi_1 is not None:
            hidden = hidden * (x @ wi_1)
        rate = self.settings.get("expert_dropout_rate", 0.0)
        return F.dropout(hidden, rate, self.training).to(wo.dtype) @ wo

    def route(self, x):
        """Return each token's expert and gate; in training, also set the layer's loss."""
        if self.router is None:
            # Fibonacci hashing, in 32 bits without a sign.
            hashed = (self.read_ids() * 0x9E3779B1 & 0xFFFFFFFF) >> 16
            return hashed % self.experts, x.new_ones(len(x), dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x, jitter = x.float(), self.settings.get("router_jitter", 0.0)
            if self.training and jitter:
                x = x * torch.empty_like(x).uniform_(1 - jitter, 1 + jitter)
            logits = F.linear(x, self.router.weight.float())
            if self.table is not None:
                logits = logits + self.table(self.read_ids()).float()
            probabilities = logits.softmax(-1)
        expert = logits.argmax(-1)
        if self.training:
            self.loss = self.compute_loss(logits, probabilities, expert)
        return expert, probabilities.gather(1, expert[:, None])[:, 0]

    def read_ids(self):
        """Return the ids of the batch's tokens, as one row."""
        if self.ids is None:
            raise ValueError("routing by token needs ids: give input_ids, not inputs_embeds")
        return self.ids.reshape(-1).long()

    def compute_loss(self, logits, probabilities, expert):
        """Compute balance loss and router z-loss over the whole batch."""
        real = torch.ones_like(expert) if self.real is None else self.real.reshape(-1)
        real = real.to(logits.dtype)
        count = real.sum().clamp(min=1)
        fraction = F.one_hot(expert, self.experts).to(real.dtype).T @ real / count
        balance = self.experts * (fraction * (probabilities.T @ real / count)).sum()
        z = (logits.logsumexp(-1).square() * real).sum() / count
        weights = (self.settings.get(name, 0.0) for name in ("balance_weight", "router_z_weight"))
        return sum(weight * part for weight, part in zip(weights, (balance, z), strict=True))


def _list_experts(stack):
    layers = (block.layer[-1].DenseReluDense for block in stack.block)
    return [layer for layer in layers if isinstance(layer, MSwitchExperts)]


def _pass_ids(stack, args, kwargs):
    for layer in _list_experts(stack):
        layer.ids = kwargs.get("input_ids", args[0] if args else None)
        layer.real = kwargs.get("attention_mask") if stack.training else None


def _use_own_bias(attention, args, kwargs):
    return args, {**kwargs, "position_bias": None}


class MSwitchForConditionalGeneration(T5ForConditionalGeneration):
    """T5 whose sparse layers route tokens to experts by hidden state, token id or hash."""

    config_class = MSwitchConfig
    #: Trainer then divides the loss by the steps of gradient accumulation.
    accepts_loss_kwargs = False
    _can_compile_fullgraph = False

    def __init__(self, config):
        if not config.tied_embeddings and isinstance(self._tied_weights_keys, dict):
            tied = self._tied_weights_keys.items()
            self._tied_weights_keys = {name: to for name, to in tied if name != "lm_head.weight"}
        super().__init__(config)
        for stack in (self.encoder, self.decoder):
            stack.register_forward_pre_hook(_pass_ids, with_kwargs=True)
            for index, block in enumerate(stack.block):
                if (index + 1) % config.sparse_every == 0:
                    block.layer[-1].DenseReluDense = MSwitchExperts(config)
                if not config.shared_position_bias:
                    attention = block.layer[0].SelfAttention
                    shape = (config.relative_attention_num_buckets, config.num_heads)
                    attention.has_relative_attention_bias = True
                    attention.relative_attention_bias = nn.Embedding(*shape)
                    attention.register_forward_pre_hook(_use_own_bias, with_kwargs=True)
        # transformers 4 refuses names that the model does not have.
        names = {name for path, _ in self.named_modules() for name in path.split(".")}
        self._keep_in_fp32_modules_strict = names & {"router", "table"}
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MSwitchExperts):
            for kernel in (module.wi_0, module.wi_1, module.wo):
                if kernel is not None:
                    nn.init.normal_(kernel, std=kernel.shape[1] ** -0.5)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        labels=None,
        **kwargs,
    ):
        """Compute T5's outputs; in training, add the routers' losses to the loss."""
        if labels is not None and decoder_attention_mask is None:
            decoder_attention_mask = (labels != -100).long()
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            labels=labels,
            **kwargs,
        )
        if self.training and labels is not None:
            layers = [*_list_experts(self.encoder), *_list_experts(self.decoder)]
            outputs.loss = outputs.loss + sum(x.loss for x in layers if x.loss is not None)
        return outputs
