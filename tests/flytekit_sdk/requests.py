"""Generated requests, and the orders that the mirror obeys."""

from __future__ import annotations

import json

from flyteidl.admin.agent_pb2 import CreateTaskRequest, TaskExecutionMetadata
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import TypedInterface, Variable, VariableMap
from flyteidl.core.literals_pb2 import (
    Blob,
    BlobMetadata,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
    StructuredDataset,
    Union,
    Void,
)
from flyteidl.core.security_pb2 import Identity, Secret, SecurityContext
from flyteidl.core.tasks_pb2 import (
    Container,
    ContainerPort,
    Resources,
    RuntimeMetadata,
    Sql,
    TaskMetadata,
    TaskTemplate,
)
from flyteidl.core.types_pb2 import BlobType, LiteralType, SimpleType, StructuredDatasetType
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def struct(fields: dict) -> Struct:
    made = Struct()
    made.update(fields)
    return made


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
STRUCTS = st.dictionaries(NAMES, JSON, max_size=3).map(struct)

SCALARS = st.one_of(
    INTEGERS.map(lambda value: Scalar(primitive=Primitive(integer=value))),
    st.floats(allow_nan=False).map(lambda value: Scalar(primitive=Primitive(float_value=value))),
    TEXTS.map(lambda value: Scalar(primitive=Primitive(string_value=value))),
    st.booleans().map(lambda value: Scalar(primitive=Primitive(boolean=value))),
    st.integers(0, 2**32).map(lambda value: Scalar(primitive=Primitive(datetime=Timestamp(seconds=value)))),
    st.integers(0, 2**31).map(lambda value: Scalar(primitive=Primitive(duration=Duration(seconds=value, nanos=1000)))),
    st.just(Scalar(none_type=Void())),
    STRUCTS.map(lambda value: Scalar(generic=value)),
    TEXTS.map(lambda uri: Scalar(blob=Blob(uri=uri, metadata=BlobMetadata(type=BlobType(format="csv"))))),
    TEXTS.map(lambda uri: Scalar(structured_dataset=StructuredDataset(uri=uri))),
)
LITERALS = st.recursive(
    st.builds(lambda scalar, digest: Literal(scalar=scalar, hash=digest), SCALARS, st.sampled_from(["", "h"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: Literal(collection=LiteralCollection(literals=items))),
        st.dictionaries(NAMES, inner, max_size=3).map(lambda items: Literal(map=LiteralMap(literals=items))),
        inner.map(lambda item: Literal(scalar=Scalar(union=Union(value=item, type=LiteralType(simple=1))))),
    ),
    max_leaves=5,
)
LITERAL_MAPS = st.dictionaries(NAMES, LITERALS, max_size=4).map(lambda items: LiteralMap(literals=items))

TYPES = st.recursive(
    st.one_of(
        st.sampled_from(["NONE", "INTEGER", "FLOAT", "STRING", "BOOLEAN", "DATETIME", "DURATION", "STRUCT"]).map(
            lambda name: LiteralType(simple=SimpleType.Value(name))
        ),
        st.just(LiteralType(blob=BlobType(format="csv"))),
        st.just(LiteralType(structured_dataset_type=StructuredDatasetType(format="parquet"))),
    ),
    lambda inner: (
        inner.map(lambda item: LiteralType(collection_type=item))
        | inner.map(lambda item: LiteralType(map_value_type=item))
    ),
    max_leaves=3,
)
VARIABLES = st.dictionaries(
    NAMES, st.builds(lambda kind, text: Variable(type=kind, description=text), TYPES, TEXTS), max_size=3
).map(lambda found: VariableMap(variables=found))

CONTAINERS = st.builds(
    lambda image, args, env, cpu: Container(
        image=image,
        command=["run"],
        args=args,
        env=[{"key": key, "value": value} for key, value in env.items()],
        resources=Resources(requests=[Resources.ResourceEntry(name=Resources.CPU, value=cpu)]),
        ports=[ContainerPort(container_port=80)],
    ),
    TEXTS,
    st.lists(TEXTS, max_size=3),
    st.dictionaries(NAMES, TEXTS, max_size=2),
    st.sampled_from(["1", "500m"]),
)
SQLS = st.builds(lambda text, dialect: Sql(statement=text, dialect=dialect), TEXTS, st.sampled_from([0, 1, 2]))
SECURITY = st.builds(
    lambda role, key: SecurityContext(run_as=Identity(iam_role=role), secrets=[Secret(group="g", key=key)]),
    TEXTS,
    NAMES,
)


def identifier(name: str) -> Identifier:
    return Identifier(resource_type=1, project="p", domain="d", name=name, version="v")


@st.composite
def templates(draw, task_types):
    """A task, with any of what flytekit reads."""
    metadata = TaskMetadata(
        discoverable=draw(st.booleans()),
        runtime=RuntimeMetadata(type=1, version=draw(NAMES), flavor="python"),
        timeout=Duration(seconds=draw(st.integers(0, 1000))),
        discovery_version=draw(TEXTS),
        interruptible=draw(st.booleans()),
        cache_serializable=draw(st.booleans()),
        tags=draw(st.dictionaries(NAMES, TEXTS, max_size=2)),
    )
    task_type, version = draw(task_types)
    template = TaskTemplate(
        type=task_type,
        task_type_version=version,
        metadata=metadata,
        interface=TypedInterface(inputs=draw(VARIABLES), outputs=draw(VARIABLES)),
        custom=draw(STRUCTS),
        config=draw(st.dictionaries(NAMES, TEXTS, max_size=2)),
    )
    if draw(st.booleans()):
        template.id.CopyFrom(identifier(draw(NAMES)))
    if draw(st.booleans()):
        template.security_context.CopyFrom(draw(SECURITY))
    target = draw(st.none() | CONTAINERS | SQLS)
    if isinstance(target, Container):
        template.container.CopyFrom(target)
    elif target is not None:
        template.sql.CopyFrom(target)
    return template


@st.composite
def executions(draw):
    """Who runs a task. Mostly as the executor says it, else with nothing."""
    if not draw(st.integers(0, 4)):
        return TaskExecutionMetadata()
    metadata = TaskExecutionMetadata(
        namespace=draw(TEXTS),
        labels=draw(st.dictionaries(NAMES, TEXTS, max_size=2)),
        annotations=draw(st.dictionaries(NAMES, TEXTS, max_size=2)),
        k8s_service_account=draw(TEXTS),
        environment_variables=draw(st.dictionaries(NAMES, TEXTS, max_size=2)),
        identity=Identity(iam_role=draw(TEXTS), k8s_service_account="k"),
        max_attempts=draw(st.integers(0, 3)),
        interruptible=draw(st.booleans()),
        interruptible_failure_threshold=draw(st.integers(-2, 3)),
    )
    execution = metadata.task_execution_id
    execution.task_id.CopyFrom(identifier(draw(NAMES)))
    execution.retry_attempt = draw(st.integers(0, 3))
    execution.node_execution_id.node_id = draw(NAMES)
    execution.node_execution_id.execution_id.name = draw(NAMES)
    return metadata


def creates(*task_types):
    """Requests to CreateTask for tasks of these types and versions."""
    return st.builds(
        lambda template, inputs, prefix, metadata: CreateTaskRequest(
            template=template, inputs=inputs, output_prefix=prefix, task_execution_metadata=metadata
        ),
        templates(st.sampled_from(task_types)),
        LITERAL_MAPS,
        TEXTS.map(lambda text: f"s3://{text}"),
        executions(),
    )


# what flytekit's type engine makes the same literal of each time
OUTPUTS = st.dictionaries(
    NAMES,
    INTEGERS | st.floats(allow_nan=False) | TEXTS | st.booleans() | st.dictionaries(NAMES, JSON, max_size=3),
    max_size=3,
)


@st.composite
def orders(draw, phases=(1, 2, 3, 4, 5, 6, 7, 8)):
    """What the mirror's `get` and `do` are to return."""
    order = {"phase": draw(st.sampled_from(phases))}
    if draw(st.booleans()):
        order["message"] = draw(TEXTS)
    if draw(st.booleans()):
        order["links"] = draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=2))
    if draw(st.booleans()):
        order["custom"] = draw(st.dictionaries(NAMES, JSON, max_size=3))
    match draw(st.integers(0, 2)):
        case 1:
            order["outputs"] = draw(OUTPUTS)
        case 2:
            order["literals"] = draw(LITERAL_MAPS).SerializeToString(deterministic=True).hex()
    return json.dumps(order)
