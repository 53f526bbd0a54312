"""A consumer of your own: prints where the right wrist of every stream is."""

import rtskel
from rtskel.wire import Event, RefinedPose

WRIST = rtskel.UPPER_BODY_50.names.index("right_wrist")


def main(endpoint: str = rtskel.client.REFINED_ENDPOINT) -> None:
    """Print the wrist's height in every refined pose."""
    with rtskel.Subscriber(endpoint, lookahead=4, latest=True) as subscriber:  # latest: never lag, skip if need be
        for message in subscriber:
            if isinstance(message, RefinedPose):
                x, y, z = message.xyz[WRIST]
                filled = " (filled in)" if message.missing[WRIST] else ""
                print(f"{message.stream} {message.seq}: {x:.3f} {y:.3f} {z:.3f} +- {message.sigma[WRIST]:.3f}{filled}")
            elif isinstance(message, Event) and message.kind == "end":
                print(f"{message.stream} has ended")
                return


if __name__ == "__main__":
    main()
