#!/bin/sh
# Builds the MongoDB stand-in into a folder: tests/servers/build.sh FOLDER. Needs mvn, javac and, once, Maven Central.
set -eu

here=$(dirname "$0")
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mvn -q -B -f "$here/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$folder/lib"
javac -d "$folder/classes" -cp "$folder/lib/*" "$here/MongoServerProcess.java"
touch "$folder/stamp"
