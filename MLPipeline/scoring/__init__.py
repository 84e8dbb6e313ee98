"""What predictions are worth: metrics, confidence intervals, calibration, withheld answers, heat maps, comparison."""
