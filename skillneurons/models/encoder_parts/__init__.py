"""The rooms of a `HookedEncoder`: hooks and caches, weights, text, files, checks of its input."""
