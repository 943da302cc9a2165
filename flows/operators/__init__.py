"""What the flows on a server are made of: settings, forms, steps that follow jobs, artifacts."""
