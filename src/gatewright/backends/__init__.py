"""What runs a cell over a sequence: the dispatcher and the backends it chooses from."""
