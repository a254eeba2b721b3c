"""What a method does besides its objective: sampling plans, shaping, advantages, filters, reweighting, reuse."""
