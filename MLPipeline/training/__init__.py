"""What the training loop needs: optimizer, phases, its state, class weights, resuming, learning-rate range test."""
