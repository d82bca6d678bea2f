"""How much memory networks take, measured on copies of them without weights."""
