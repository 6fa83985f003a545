"""What several families of optimizers share."""
