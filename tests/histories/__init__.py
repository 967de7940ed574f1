"""Random histories: browsers, requests in flight, late and lost answers, thieves, clocks, keys, outages, revocations.

``model`` says what may be so and knows no cookies; ``world`` is everything around the filter; ``machine`` makes up
histories, carries them out, and holds what happens against the model. ``python -m tests.histories`` runs many.
"""
