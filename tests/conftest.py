"""Reports how many checks of the law ran: a test run in which none did must not pass for one."""

from tests import contract


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        f"contract checks run: {sum(contract.CHECKS.values())} "
        f"({', '.join(f'{name} {count}' for name, count in sorted(contract.CHECKS.items()))})"
    )
