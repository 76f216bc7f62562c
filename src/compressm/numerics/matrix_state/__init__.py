"""Time-varying states that can be selected: contributions, choices, and what makes up for them."""
