"""Several processes as one: ranks, their meeting, gradients summed over a whole batch."""
