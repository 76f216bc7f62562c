"""How fast operators, training steps and cuts are on this machine."""
