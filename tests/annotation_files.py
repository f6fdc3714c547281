"""Files of annotations as the programs of pathologists write them, and a Hamamatsu slide for those of NDP.view."""

import io
import json
import struct

import shapely
from PIL import Image

from spider_tools.annotations.frame import Frame
from spider_tools.annotations.reading import read_annotations

FRAME = Frame("s.svs", (1000, 800), (0.5, 0.5), (0, 0, 1000, 800))
# A triangle that no turn or mirror maps to itself; its area is 300 * 200 / 2.
TRIANGLE = [(400, 300), (700, 300), (700, 500)]


def areas(found):
    """The areas of a file by class, in its order."""
    return [(one.class_name, round(one.shape.area, 6)) for one in found.annotations]


def read_text(folder, text, frame=FRAME, name="s.xml", encoding="utf-8"):
    """What is read of a text."""
    path = folder / name
    path.write_text(text, encoding=encoding)
    return read_annotations(path, frame)


def read_features(folder, *features, frame=FRAME):
    """What is read of GeoJSON with these features."""
    return read_text(folder, json.dumps({"type": "FeatureCollection", "features": features}), frame, "s.geojson")


def feature(geometry, classification="Tumor", **others):
    """A feature as QuPath writes it; shapes of shapely and corners of a polygon are geometries too."""
    if isinstance(geometry, list):
        geometry = {"type": "Polygon", "coordinates": [[*geometry, geometry[0]]]}
    elif isinstance(geometry, shapely.Geometry):
        geometry = shapely.geometry.mapping(geometry)
    properties = {"objectType": "annotation"}
    if classification is not None:
        named = {"name": classification, "color": [200, 0, 0]} if isinstance(classification, str) else classification
        properties["classification"] = named
    return {"type": "Feature", "geometry": geometry, "properties": properties, **others}


def asap(*annotations):
    """`(type, group, corners)` as ASAP writes them."""
    rows = "".join(
        f'<Annotation Name="Annotation {number}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(corners))
        + "</Coordinates></Annotation>"
        for number, (kind, group, corners) in enumerate(annotations)
    )
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{rows}</Annotations><AnnotationGroups>'
        '<Group Name="Tumor" PartOfGroup="None" Color="#00ff00"><Attributes /></Group></AnnotationGroups>'
        "</ASAP_Annotations>"
    )


def region(corners, kind=0, text="", hole=0):
    """A region of ImageScope."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    return (
        f'<Region Id="1" Type="{kind}" Zoom="0.1" Selected="0" ImageLocation="" ImageFocus="-1" Length="9" Area="9" '
        f'Text="{text}" NegativeROA="{hole}" InputRegionId="0" Analyze="1" DisplayId="1"><Attributes/>'
        f"<Vertices>{vertices}</Vertices></Region>"
    )


def layer(*regions, name="", description=""):
    """A layer of ImageScope."""
    return (
        f'<Annotation Id="1" Name="{name}" ReadOnly="0" Type="4" LineColor="65280" Visible="1"><Attributes>'
        f'<Attribute Name="Description" Id="0" Value="{description}"/></Attributes><Regions><RegionAttributeHeaders>'
        '<AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>'
        f"{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def imagescope(*layers):
    """A file of ImageScope."""
    return f'<Annotations MicronsPerPixel="0.5">{"".join(layers)}</Annotations>'


def view_state(title, content, unit="nanometers"):
    """An object of NDP.view."""
    return (
        f'<ndpviewstate id="1"><title>{title}</title><details/><coordformat>{unit}</coordformat><lens>1.25</lens>'
        f"<x>0</x><y>0</y><z>0</z><showtitle>1</showtitle>{content}</ndpviewstate>"
    )


def freehand(corners, closed=1, kind="freehand", shown="AnnotateFreehand"):
    """A line of NDP.view, in nm."""
    points = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in corners)
    return (
        f'<annotation type="{kind}" displayname="{shown}" color="#ff0000"><measuretype>0</measuretype>'
        f"<closed>{closed}</closed><pointlist>{points}</pointlist></annotation>"
    )


def ndpa(*states):
    """A file of NDP.view."""
    return f'<?xml version="1.0" encoding="utf-8" standalone="yes"?>\n<annotations>{"".join(states)}</annotations>'


def write_ndpi(path, pixels, mpp, center_offset_nm):
    """A Hamamatsu slide of one level: a TIFF of one JPEG, with the scanner's tags and its offsets of 8 bytes."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg")
    strip = content.getvalue() + bytes(len(content.getvalue()) % 2)
    per_cm = struct.pack("<II", round(1e4 / mpp), 1)
    height, width = pixels.shape[:2]
    short, long, rational, signed, real, text = 3, 4, 5, 9, 11, 2
    tags = [
        *((256, long, width), (257, long, height), (258, short, 8), (259, short, 7), (262, short, 6)),
        *((271, text, b"Hamamatsu\0"), (273, long, 12), (277, short, 3), (278, long, height), (279, long, len(strip))),
        *((282, rational, per_cm), (283, rational, per_cm), (296, short, 3), (65420, long, 1), (65421, real, 20.0)),
        *((65422, signed, center_offset_nm[0]), (65423, signed, center_offset_nm[1]), (65424, signed, 0)),
    ]
    start = 12 + len(strip)
    behind = start + 2 + 12 * len(tags) + 8 + 4 * len(tags)
    rows, values = b"", b""
    for tag, kind, value in tags:
        if isinstance(value, bytes):
            rows += struct.pack("<HHII", tag, kind, len(value) if kind == text else 1, behind + len(values))
            values += value
        else:
            form = {short: "H", long: "I", signed: "i", real: "f"}[kind]
            rows += struct.pack("<HHI", tag, kind, 1) + struct.pack(f"<{form}", value).ljust(4, b"\0")
    head = struct.pack("<2sHQ", b"II", 42, start)
    path.write_bytes(head + strip + struct.pack("<H", len(tags)) + rows + bytes(8 + 4 * len(tags)) + values)
    return path
