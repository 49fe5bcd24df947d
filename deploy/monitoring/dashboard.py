"""The Grafana dashboard of connectrio: `uv run just dashboard` writes it into the files of the Helm chart.

A test compares the file with what this makes, and names, labels and answers of all queries with a real host.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from panels import HOSTS, ROWS, WINDOW, Graph, Number, Query

FILE = Path(__file__).parents[1] / "helm" / "connectrio" / "files" / "dashboard.json"
SITE = "https://connectrio.github.io/connectrio/how-to"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def target(letter: str, query: Query) -> Dataquery:
    return Dataquery().datasource(SOURCE).ref_id(letter).expr(query.expr).legend_format(query.legend).range()


def graph(panel: Graph, number: int) -> timeseries.Panel:
    """Return lines over time.

    :param number: tells the panels of the dashboard apart
    """
    legend = common.VizLegendOptions().show_legend(True)
    made = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.text)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .span(8)
        .height(7)
        .line_width(1)
        .fill_opacity(60 if panel.is_stacked else 10)
        .show_points(VisibilityMode.NEVER)
        .legend(legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if panel.most is not None:
        made.max(panel.most)
    if panel.is_stacked:
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        made.with_target(target(letter, query))
    return made


def newest(panel: Number, number: int) -> stat.Panel:
    """Return a number, its colour, and a small graph behind it.

    :param number: tells the panels of the dashboard apart
    """
    thresholds = [Threshold(value, color) for value, color in panel.steps]
    made = (
        stat.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.text)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(12 if panel.is_named else 4)
        .height(4)
        .graph_mode(BigValueGraphMode.NONE if panel.is_named else BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME if panel.is_named else BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
        .with_target(target("A", panel.query))
    )
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    return made


def variable(name: str, label: str, query: str, *, every: str | None = None) -> grafana.QueryVariable:
    """A choice of the reader, with several values and "All".

    :param every: the expression that "All" stands for; Grafana lists all values if it is not given
    """
    found = (
        grafana.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
    )
    return found if every is None else found.all_value(every)


def dashboard() -> grafana.Dashboard:
    """Return the dashboard."""
    board = (
        grafana.Dashboard("connectrio")
        .uid("connectrio")
        .description("Hosts of Flyte connectors. Made by deploy/monitoring/dashboard.py: change that, not this.")
        .tags(["connectrio", "flyte"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("1m")
        .link(
            grafana.DashboardLink("Runbooks").type(DashboardLinkType.LINK).url(f"{SITE}/runbooks/").target_blank(True)
        )
        .link(grafana.DashboardLink("On call").type(DashboardLinkType.LINK).url(f"{SITE}/on-call/").target_blank(True))
        .with_variable(grafana.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", "label_values(connectrio_ready, job)"))
        .with_variable(variable("instance", "Host", 'label_values(connectrio_ready{job=~"$job"}, instance)'))
        .with_variable(
            variable(
                "connector", "Connector", f"label_values(connectrio_connector_up{{{HOSTS}}}, task_type)", every=".*"
            )
        )
        .annotation(
            grafana.AnnotationQuery()
            .name("Starts of hosts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("blue")
            .expr(f"changes(process_start_time_seconds{{{HOSTS}}}{WINDOW}) > 0")
        )
    )
    number = 0
    for title, panels in ROWS.items():
        number += 1
        board.with_row(grafana.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(graph(panel, number) if isinstance(panel, Graph) else newest(panel, number))
    return board


def text() -> str:
    """Return the dashboard as JSON."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
