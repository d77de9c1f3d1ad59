"""What the balancer and the raters both speak: messages, codecs, money, errors, the client.

Nothing in here imports `balancer` or `rater`.
"""
