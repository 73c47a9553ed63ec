"""One script per question; each writes results/NAME.json with the machine and the versions beside its figures."""
