"""What is done with finished runs: explored, compared, perturbed again."""
