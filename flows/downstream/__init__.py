"""What a model is worth on a task: a page of one fine-tuned run, and of a pair of them."""
