"""Play schedules and print what happened in each, as a digest or in full: `python -m tests.lab.sim.replay SEED ...`."""

import argparse
import hashlib

from tests.lab.sim.simulate import play_one, quiet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--full", action="store_true", help="every callback and every call, with its time")
    options = parser.parse_args()
    with quiet():
        for seed in options.seeds:
            trace: list[str] = []
            outcome = play_one(seed, trace)
            known = {
                name: sorted(of) if isinstance(of, set) else of for name, of in vars(outcome.history).items()
            }
            whole = "\n".join([*trace, repr(known), *outcome.broken])
            digest = hashlib.sha256(whole.encode()).hexdigest()
            print(whole if options.full else f"{seed} {len(trace)} {digest}")


if __name__ == "__main__":
    main()
