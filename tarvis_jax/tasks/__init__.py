"""One file per task: which queries it asks the network with, and what it trains them on."""
