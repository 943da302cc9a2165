"""Import and export weights of Hugging Face's MT5, T5 and SwitchTransformers, as safetensors."""
