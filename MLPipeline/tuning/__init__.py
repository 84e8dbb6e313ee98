"""The search for hyperparameters on stored features."""
