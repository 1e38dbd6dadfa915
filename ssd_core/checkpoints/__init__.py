"""Files of weights in, models out, and back."""
