"""What scripts/model_card.py is made of."""
