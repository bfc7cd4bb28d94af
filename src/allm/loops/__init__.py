"""The loop, written once: sans-IO generators that yield events and effects."""
