"""Weights to and from Hugging Face's MT5, T5 and SwitchTransformers, through safetensors."""
