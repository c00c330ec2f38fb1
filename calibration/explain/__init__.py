"""How much each layer loses, and which layers are suspicious."""
