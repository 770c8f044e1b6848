"""From records in every accepted layout to validated, tokenised pairs."""
