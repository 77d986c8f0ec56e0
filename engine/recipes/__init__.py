"""The recipe format: what a user asks for, as a strict TOML file that makes it again."""
