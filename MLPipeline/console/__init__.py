"""What the user sees and presses: messages, progress bars, signals."""
