"""What everything rests on: errors, results, profiles, the store. Nothing here imports torch."""
