"""Tools around the SPIDER model: data, training, evaluation. The model's own code never imports them."""
