def configure():
    raise ValueError("no table name given")


print("configuring")
configure()


def handler(event, context):
    pass
