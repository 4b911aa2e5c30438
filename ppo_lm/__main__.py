"""`python -m ppo_lm` and `torchrun -m ppo_lm`: the command line."""

from ppo_lm.cli.main import main

if __name__ == "__main__":
    main()
