"""One cut, from measuring to its verdict: when, how, and what a failure goes back to."""
