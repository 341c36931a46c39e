"""Names of the classes as the datasets' own files give them; a name's place is its class id (1, 2, ... K).

In semantic maps the same classes are 0, 1, ... K - 1.
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


# fmt: off
YOUTUBE_VIS_2021 = _names("""
    airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal, elephant, fish, flying_disc, fox, frog,
    giant_panda, giraffe, horse, leopard, lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark, skateboard,
    snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck, turtle, whale, zebra
""")

OVIS = _names("""
    Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe, Poultry, Giant_panda, Lizard, Parrot,
    Monkey, Rabbit, Tiger, Fish, Turtle, Bicycle, Motorcycle, Airplane, Boat, Vehicle
""")

COCO = _names("""
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush, banner, blanket, bridge, cardboard, counter, curtain, door-stuff,
    floor-wood, flower, fruit, gravel, house, light, mirror-stuff, net, pillow, platform, playingfield, railroad,
    river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood,
    water-other, window-blind, window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged,
    cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged,
    paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged, rug-merged
""")

ADE20K = _names("""
    wall, building, sky, floor, tree, ceiling, road, bed, window, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, tub, rail, cushion, base, box, column, signboard, chest of
    drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool
    table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus,
    towel, light, truck, tower, chandelier, awning, street lamp, booth, tv, plane, dirt track, clothes, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy,
    washer, plaything, pool, stool, barrel, basket, falls, tent, bag, minibike, cradle, oven, ball, food, step,
    tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce,
    vase, traffic light, tray, trash can, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator,
    glass, clock, flag
""")

MAPILLARY = _names("""
    Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut, Parking,
    Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel, Person, Bicyclist,
    Motorcyclist, Other Rider, Lane Marking - Crosswalk, Lane Marking - General, Mountain, Sand, Sky, Snow, Terrain,
    Vegetation, Water, Banner, Bench, Bike Rack, Billboard, Catch Basin, CCTV Camera, Fire Hydrant, Junction Box,
    Mailbox, Manhole, Phone Booth, Pothole, Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light,
    Traffic Sign (Back), Traffic Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails,
    Other Vehicle, Trailer, Truck, Wheeled Slow, Car Mount, Ego Vehicle
""")

CITYSCAPES = _names("""
    unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking,
    rail track, building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, traffic light, traffic sign,
    vegetation, terrain, sky, person, rider, car, truck, bus, caravan, trailer, train, motorcycle, bicycle
""")

CITYSCAPES_EVALUATED = _names("""
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider,
    car, truck, bus, train, motorcycle, bicycle
""")

VIPSEG = _names("""
    wall, ceiling, door, stair, ladder, escalator, Playground_slide, handrail_or_fence, window, rail, goal, pillar,
    pole, floor, ground, grass, sand, athletic_field, road, path, crosswalk, building, house, bridge, tower, windmill,
    well_or_well_lid, other_construction, sky, mountain, stone, wood, ice, snowfield, grandstand, sea, river, lake,
    waterfall, water, billboard_or_Bulletin_Board, sculpture, pipeline, flag, parasol_or_umbrella, cushion_or_carpet,
    tent, roadblock, car, bus, truck, bicycle, motorcycle, wheeled_machine, ship_or_boat, raft, airplane, tyre,
    traffic_light, lamp, person, cat, dog, horse, cattle, other_animal, tree, flower, other_plant, toy, ball_net,
    backboard, skateboard, bat, ball, cupboard_or_showcase_or_storage_rack, box, traveling_case_or_trolley_case,
    basket, bag_or_package, trash_can, cage, plate, tub_or_bowl_or_pot, bottle_or_cup, barrel, fishbowl, bed, pillow,
    table_or_desk, chair_or_seat, bench, sofa, shelf, bathtub, gun, commode, roaster, other_machine, refrigerator,
    washing_machine, Microwave_oven, fan, curtain, textiles, clothes, painting_or_poster, mirror, flower_pot_or_vase,
    clock, book, tool, blackboard, tissue, screen_or_television, computer, printer, Mobile_phone, keyboard,
    other_electronic_product, fruit, food, instrument, train
""")
# fmt: on
