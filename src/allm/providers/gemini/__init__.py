"""Gemini: the dialect `generateContent`."""
