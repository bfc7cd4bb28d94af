"""OpenAI: Chat Completions, the dialect that most other servers speak as well."""
