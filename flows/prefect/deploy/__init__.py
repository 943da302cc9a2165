"""`mswitch deploy`: which flows a server has, with which schedules, and how it gets them."""
