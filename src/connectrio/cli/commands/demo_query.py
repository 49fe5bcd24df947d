"""The query of `connectrio demo`: millions of made-up orders, and which region sold best in each month."""

from __future__ import annotations

__all__ = ["OUTPUT", "SQL", "inputs"]

OUTPUT = "best_regions"

SQL = """\
CREATE TEMP TABLE orders AS
WITH drawn AS (
    SELECT
        id,
        (hash(id, 1) % 527040)::BIGINT AS minute,
        (1 + hash(id, 2) % 4)::INTEGER AS region,
        hash(id, 3) % 250000 AS customer,
        (hash(id, 4) % 1000000) / 1e6 AS luck
    FROM range($orders) AS ids(id)
)
SELECT
    id, region, customer,
    make_timestamp(1704067200000000 + minute * 60000000) AS placed_at,
    (5 + 495 * pow(luck, 3)) * (1 + 0.2 * sin(minute / 80000 + 2 * region)) AS amount
FROM drawn;

WITH monthly AS (
    SELECT
        region,
        date_trunc('month', placed_at) AS month,
        count(*) AS orders,
        count(DISTINCT customer) AS customers,
        sum(amount) AS revenue,
        quantile_cont(amount, 0.95) AS p95_amount
    FROM orders
    WHERE placed_at >= $since AND amount >= $smallest_amount
    GROUP BY ALL
), growing AS (
    SELECT
        *,
        100 * (revenue / lag(revenue) OVER (PARTITION BY region ORDER BY month) - 1) AS growth_percent
    FROM monthly
)
SELECT
    strftime(month, '%Y-%m') AS month,
    $regions[region] AS best_region,
    orders,
    customers,
    round(revenue, 2) AS revenue,
    round(growth_percent, 1) AS growth_percent,
    round(p95_amount, 2) AS p95_amount
FROM growing
QUALIFY row_number() OVER (PARTITION BY growing.month ORDER BY revenue DESC) = 1
ORDER BY month
"""


def inputs(orders: int) -> list[str]:
    """What is bound to the query's parameters, as `connectrio run --input` takes it.

    :param orders: how many orders to make up
    """
    return [
        f"orders={orders}",
        'regions=["north", "south", "east", "west"]',
        "since:datetime=2024-03-01T00:00:00Z",
        "smallest_amount=20.0",
    ]
