"""Where scenes lie: poles, full disks, the whole globe, control points, side files, and what lies nowhere."""

import numpy as np
import pytest
from PIL import Image

from modeling_pir.geo.chips import iter_chips
from modeling_pir.geo.raster import Raster, is_georaster
from tests.geo.test_raster import METRES, NORTH_UP, noise, write_raster

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

GOES = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80 +units=m"
MSG = "+proj=geos +h=35785831 +lon_0=0 +a=6378169 +b=6356583.8 +units=m"
MARS = "+proj=longlat +a=3396190 +b=3376200 +no_defs"
LOCAL = 'LOCAL_CS["building site",UNIT["metre",1]]'


def disk(metres):
    """A transform that puts the middle of a 60 x 40 raster over the origin of its CRS."""
    return rasterio.Affine(metres, 0, -30 * metres, 0, -metres, 20 * metres)


def whole(path):
    with Raster(path) as scene:
        return scene.footprint((0, 0, scene.width, scene.height))


def assert_valid(geometry):
    shape = shapely.geometry.shape(geometry)
    assert shape.is_valid and shape.area > 0
    west, south, east, north = shape.bounds
    assert -180 <= west < east <= 180 and -90 <= south < north <= 90
    return shape


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (GOES, disk(10_000)),
        (MSG, disk(10_000)),
        ("+proj=moll", disk(100_000)),
        ("+proj=ortho +lat_0=40 +lon_0=10", disk(20_000)),
        ("EPSG:32633", METRES),
    ],
)
def test_scene_in_any_earthly_crs_has_a_place(tmp_path, crs, transform):
    path = write_raster(tmp_path / "scene.tif", noise(), transform, crs)
    chips = list(iter_chips(path, chip_size=10, overlap=0))
    placed = [chip for chip in chips if chip.footprint]
    assert len(placed) > len(chips) / 2
    for chip in placed:
        assert_valid(chip.footprint)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (MARS, NORTH_UP),
        (LOCAL, METRES),
        ("EPSG:4326", METRES),  # metres labelled as degrees
        ("EPSG:32633", rasterio.Affine(1e-6, 0, 10, 0, -1e-6, 50)),  # degrees labelled as metres
        ("EPSG:32633", rasterio.Affine(0, 0, 500_000, 0, 0, 5_000_000)),
        ("EPSG:32633", rasterio.Affine(2, 0, 500_000, 0, 0, 5_000_000)),
        ("EPSG:32633", rasterio.Affine(np.nan, 0, 500_000, 0, -2, 5_000_000)),
        ("+proj=ortho +lat_0=40 +lon_0=10", rasterio.Affine(1000, 0, 9e6, 0, -1000, 9e6)),  # beside the globe
    ],
)
def test_scene_that_lies_nowhere_gives_chips_without_a_footprint(tmp_path, crs, transform):
    path = write_raster(tmp_path / "scene.tif", noise(), transform, crs)
    chips = list(iter_chips(path, chip_size=20))
    assert chips and {(chip.footprint, chip.bounds) for chip in chips} == {(None, None)}


def test_chips_off_the_limb_have_no_footprint_and_the_others_have(tmp_path):
    path = write_raster(tmp_path / "disk.tif", noise(height=60), disk(250_000), GOES)
    footprints = [chip.footprint for chip in iter_chips(path, chip_size=10, overlap=0)]
    assert None in footprints and any(footprints)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", -90), ("EPSG:3413", 90), ("EPSG:3995", 90)])
@pytest.mark.parametrize("shift", [0, 3.5])
def test_scene_over_a_pole_has_it_inside(tmp_path, crs, pole, shift):
    values = noise(height=40, width=40)
    transform = rasterio.Affine(10_000, 0, (shift - 20) * 10_000, 0, -10_000, (20 - shift) * 10_000)
    path = write_raster(tmp_path / "pole.tif", values, transform, crs)
    with Raster(path) as scene:
        footprint, (west, south, east, north) = scene.footprint((0, 0, 40, 40))
        assert scene.pixel_size == pytest.approx((10_000, 10_000), rel=0.05)
    shape = assert_valid(footprint)
    assert (west, east) == (-180, 180) and pole in (south, north)
    assert shape.contains(shapely.geometry.Point(77, pole * 0.999))
    expected = rasterio.warp.transform_bounds(crs, "EPSG:4326", *rasterio.transform.array_bounds(40, 40, transform))
    assert (west, south, east, north) == pytest.approx(expected, abs=0.01)


def test_four_chips_that_meet_at_the_pole_share_the_globe_around_it(tmp_path):
    path = write_raster(tmp_path / "pole.tif", noise(height=40, width=40), disk(10_000), "EPSG:3031")
    with Raster(path) as scene:  # the pole is pixel (30, 20)
        shapes = [assert_valid(scene.footprint((c, r, 10, 10))[0]) for c in (20, 30) for r in (10, 20)]
        touching, _ = scene.footprint((25, 20, 10, 10))  # the pole in the middle of an edge
    for lon in range(-175, 180, 10):
        assert sum(shape.contains(shapely.geometry.Point(lon, -89.9)) for shape in shapes) == 1
    shape = assert_valid(touching)
    covered = sum(shape.contains(shapely.geometry.Point(lon, -89.9)) for lon in range(-175, 180, 10))
    assert covered == 18  # half of the 36


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3035", "EPSG:5070", "EPSG:2154", "EPSG:3857", "EPSG:32660"])
def test_bounds_agree_with_rasterio_along_curved_edges(tmp_path, crs):
    places = {"EPSG:3031": (4e5, 2e6), "EPSG:3035": (4e6, 3e6), "EPSG:5070": (5e5, 2e6), "EPSG:2154": (6e5, 7e6)}
    left, top = places.get(crs, (5e5, 5e6))
    transform = rasterio.Affine(20_000, 0, left, 0, -20_000, top)
    path = write_raster(tmp_path / "scene.tif", noise(), transform, crs)
    footprint, bounds = whole(path)
    corners = rasterio.transform.array_bounds(40, 60, transform)
    assert bounds == pytest.approx(rasterio.warp.transform_bounds(crs, "EPSG:4326", *corners), abs=0.01)
    assert_valid(footprint)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", rasterio.Affine(6, 0, -180, 0, -4.5, 90)),
        ("EPSG:4326", rasterio.Affine(6, 0, 0, 0, -4.5, 90)),
        ("EPSG:4326", rasterio.Affine(6, 0, -183, 0, -4.5, 92.25)),  # pixel centres on the edge of the globe
        ("EPSG:3857", rasterio.Affine(667916.9, 0, -20037507, 0, -1001875, 20037500)),
        ("+proj=eqc", rasterio.Affine(667916.9, 0, -20037507, 0, -500937, 10018740)),
    ],
)
def test_footprint_of_the_whole_globe_is_the_globe(tmp_path, crs, transform):
    path = write_raster(tmp_path / "globe.tif", noise(), transform, crs)
    footprint, (west, south, east, north) = whole(path)
    assert (west, east) == pytest.approx((-180, 180), abs=1e-3) and south < -84 and north > 84
    shape = assert_valid(footprint)
    for lon in (-170, -1, 1, 100, 170):
        assert shape.contains(shapely.geometry.Point(lon, 10.1))


def test_ground_control_points_place_a_scene(tmp_path):
    point = rasterio.control.GroundControlPoint
    corners = [point(0, 0, 10, 50), point(0, 60, 10.6, 50.1), point(40, 0, 10.1, 49.6), point(40, 60, 10.7, 49.7)]
    path = tmp_path / "radar.tif"
    shape = {"count": 1, "height": 40, "width": 60, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape) as dataset:
        dataset.write(noise(1, dtype=np.uint16, high=900))
        dataset.gcps = (corners, rasterio.crs.CRS.from_epsg(4326))
    footprint, bounds = whole(path)
    assert np.allclose(
        footprint["coordinates"][0], [(10, 50), (10.1, 49.6), (10.7, 49.7), (10.6, 50.1), (10, 50)], atol=1e-5
    )
    assert bounds == pytest.approx((10, 49.6, 10.7, 50.1), abs=1e-5)
    assert is_georaster(path)


def test_ground_control_points_across_the_antimeridian(tmp_path):
    point = rasterio.control.GroundControlPoint
    corners = [point(0, 0, 179.7, 5), point(0, 60, -179.7, 5), point(40, 0, 179.7, 4.6), point(40, 60, -179.7, 4.6)]
    path = tmp_path / "radar.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=40, width=60, dtype="uint8") as dataset:
        dataset.write(noise(1))
        dataset.gcps = (corners, rasterio.crs.CRS.from_epsg(4326))
    footprint, bounds = whole(path)
    assert footprint["type"] == "MultiPolygon" and bounds == pytest.approx((179.7, 4.6, -179.7, 5), abs=1e-5)


@pytest.mark.parametrize("places", [[(0, 0), (20, 20), (40, 40)], [(0, 0)] * 3, [(0, 0), (40, 60)]])
def test_control_points_that_span_no_plane_place_nothing_and_cost_no_image(tmp_path, capfd, places):
    point = rasterio.control.GroundControlPoint
    path = tmp_path / "radar.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=40, width=60, dtype="uint8") as dataset:
        dataset.write(noise(1))
        points = [point(row, col, 10 + col / 100, 50 - row / 100) for row, col in places]
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    assert {chip.footprint for chip in iter_chips(path, chip_size=40)} == {None}
    assert "ERROR" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["scene.tif", "scene.jpg", "scene.png"])
@pytest.mark.parametrize("note", ["scene.prj", "scene.PRJ"])
def test_a_prj_beside_a_world_file_says_where_an_image_lies(tmp_path, name, note):
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / name)
    (tmp_path / f"scene.{name[6]}{name[8]}w").write_text("2\n0\n0\n-2\n500001\n4999999\n")
    assert whole(tmp_path / name) == (None, None)
    crs = rasterio.crs.CRS.from_epsg(32633)
    for text, is_placed in ((crs.to_wkt(version="WKT1_ESRI"), True), ("no CRS", False)):
        (tmp_path / note).write_text(text)
        assert (whole(tmp_path / name)[0] is not None) == is_placed


AUX = "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>5e5, 2, 0, 5e6, 0, -2</GeoTransform></PAMDataset>"
WORLD_FILES = [
    ("scene.tif", "scene.tfw"), ("scene.tif", "scene.TFW"), ("scene.tif", "scene.tifw"), ("scene.tif", "scene.wld"),
    ("scene.tiff", "scene.tfw"), ("SCENE.TIF", "SCENE.TFW"), ("scene.jpg", "scene.jgw"), ("scene.jpg", "scene.jpgw"),
    ("scene.jpeg", "scene.jgw"), ("scene.jpeg", "scene.jpegw"), ("scene.jpg", "scene.JGW"), ("scene.png", "scene.pgw"),
    ("scene.png", "scene.pngw"), ("scene.png", "scene.wld"), ("scene.PNG", "scene.PGW"), ("a.b.png", "a.b.pgw"),
]  # fmt: skip


@pytest.mark.parametrize(("image", "world"), WORLD_FILES)
def test_world_file_in_any_spelling_places_an_image(tmp_path, image, world):
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / image)
    assert not is_georaster(tmp_path / image)
    (tmp_path / world).write_text("2\n0\n0\n-2\n500001\n4999999\n")
    (tmp_path / f"{image}.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    assert is_georaster(tmp_path / image)
    with Raster(tmp_path / image) as scene:
        assert scene.crs == "EPSG:32633" and scene.pixel_size == pytest.approx((2, 2), rel=0.01)


@pytest.mark.parametrize("name", ["scene.tif", "scene.jpg", "scene.png"])
def test_notes_beside_an_image_place_it_only_if_they_say_where(tmp_path, name):
    Image.fromarray(noise().transpose(1, 2, 0)).save(tmp_path / name)
    (tmp_path / f"{name}.aux.xml").write_text("<PAMDataset><Metadata><MDI key='a'>b</MDI></Metadata></PAMDataset>")
    assert not is_georaster(tmp_path / name)
    (tmp_path / f"{name}.aux.xml").write_text(AUX)
    assert is_georaster(tmp_path / name)
    chips = list(iter_chips(tmp_path / name, chip_size=20))
    assert all(chip.footprint for chip in chips)
