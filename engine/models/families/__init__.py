"""Families of text-to-image models behind one interface (``base.TextToImage``): a page a family.

Each takes diffusers' and transformers' own network classes, never whole pipelines, and says how they are told what to
draw, asked for a prediction, and how pictures become latents and back.
"""
