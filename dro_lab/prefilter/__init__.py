"""The static filter's preparation: which training rows react to the reasoning of the initial policy?"""
