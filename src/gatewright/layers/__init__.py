"""Recurrent layers with the signatures and the state dicts of torch.nn."""
