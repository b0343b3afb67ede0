"""LoRA-SAM: SAM's encoder bent by low-rank adapters, under heads that find objects by themselves (arXiv 2401.15266).

The paper's code is not public. What it leaves open is read as in RSPrompter (Chen et al. 2024), its nearest public
relative, whose key names the parts that are its own have here.
"""
