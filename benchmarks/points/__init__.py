"""What SAPNet's parts cost; see ``speed``."""
