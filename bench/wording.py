"""Numbers, setups and machines in words, the same in a terminal and on a page."""

from __future__ import annotations

from bench.machine import Machine
from bench.report import Figure, Setup

_MINUS = "-"


def write_number(value: float | None) -> str:
    """Four significant digits; large numbers whole; `-` where there is none."""
    if value is None:
        return _MINUS
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_spread(figure: Figure) -> str:
    """Its quartiles; nothing where it was measured once."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{write_number(figure.low)} to {write_number(figure.high)}"


def write_noise(figure: Figure) -> str:
    """From block to block, in percent; nothing where there was one."""
    return "" if figure.noise is None else f"{figure.noise:.1%}"


def describe_setup(setup: Setup) -> str:
    """All of it in one line."""
    parts = []
    for key, value in setup.items():
        is_count = isinstance(value, int) and not isinstance(value, bool)
        parts.append(f"{key.replace('_', ' ')}: {value:,}" if is_count else f"{key}: {value}")
    return " · ".join(parts)


def describe_machine(machine: Machine) -> str:
    """Processor, memory and what was measured of both, in one line."""
    measured = [f"copies {machine.copy_gb_per_s} GB/s"]
    if machine.read_gb_per_s is not None:
        measured.append(f"reads {machine.read_gb_per_s} GB/s on all cores")
    if machine.int8_gops is not None:
        measured.append(f"int8 product {machine.int8_gops:,.0f} GOPS")
    return (
        f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), "
        f"{machine.memory_bytes / 2**30:.0f} GiB, {', '.join(measured)}"
    )


def describe_software(machine: Machine) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    return f"{machine.system}, Python {machine.python}, {packages}"
