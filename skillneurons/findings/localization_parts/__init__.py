"""What a claim of localization needs, one file for each question; `findings.localization` asks them all."""
