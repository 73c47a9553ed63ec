"""The papers of a bundle: how it was made, what it is made of, under which licences, and its model card."""
