// Learns from features that lie in .npy files, and tells the classes of others.
//
//     g++ -std=c++17 -O2 learn.cpp -o learn
//     ./learn train.npy labels.npy 0.1 test.npy scores.npy
//
// train.npy: float32 (images, features). labels.npy: int64 (images), classes from 0 on. 0.1: lambda. test.npy: float32
// (other images, features). scores.npy, written: float32 (other images, classes). Prints the likeliest class of each.
// In a program of your own the features come from onnxruntime, which runs the file that
// `edge-s2a export --format onnx-features` writes.
#include "closed_form.hpp"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <regex>
#include <string>

// The values of a file of version 1 that numpy.save wrote, of `kind` such as "<f4", on a little-endian machine.
template <typename Value>
std::vector<Value> read_npy(const std::string& path, const std::string& kind, std::vector<std::size_t>& shape) {
    std::ifstream file(path, std::ios::binary);
    char start[10] = {};
    file.read(start, sizeof start);
    if (!file || std::string(start, 7) != "\x93NUMPY\x01") throw std::runtime_error(path + " is no .npy file");
    std::string header(static_cast<unsigned char>(start[8]) + 256 * static_cast<unsigned char>(start[9]), ' ');
    file.read(header.data(), static_cast<std::streamsize>(header.size()));
    const std::regex expected("\\{'descr': '" + kind + "', 'fortran_order': False, 'shape': \\((\\d+),(?: (\\d+))?\\).*");
    std::smatch found;
    const std::string line = header.substr(0, header.find('\n'));
    if (!std::regex_match(line, found, expected)) throw std::runtime_error(path + " is not of " + kind + ": " + line);
    std::size_t count = 1;
    for (std::size_t axis = 1; axis <= 2; ++axis)
        if (found[axis].matched) shape.push_back(std::stoul(found[axis])), count *= shape.back();
    std::vector<Value> values(count);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(Value)));
    if (!file) throw std::runtime_error(path + " is cut short");
    return values;
}

Matrix read_features(const std::string& path) {
    std::vector<std::size_t> shape;
    const std::vector<float> values = read_npy<float>(path, "<f4", shape);
    if (shape.size() != 2) throw std::runtime_error(path + " has not two axes");
    for (float value : values)
        if (!std::isfinite(value)) throw std::runtime_error(path + " has values that are not finite");
    Matrix result(shape[0], shape[1]);
    std::copy(values.begin(), values.end(), result.values.begin());
    return result;
}

void write_npy(const std::string& path, const Matrix& matrix) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(matrix.rows) + ", " +
                         std::to_string(matrix.columns) + "), }";
    header.resize(117, ' ');
    std::ofstream file(path, std::ios::binary);
    file << std::string("\x93NUMPY\x01\x00\x76\x00", 10) << header << '\n';
    const std::vector<float> values(matrix.values.begin(), matrix.values.end());
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

int main(int count, char** words) try {
    if (count != 6) throw std::runtime_error("usage: learn TRAIN LABELS LAMBDA TEST SCORES");
    std::vector<std::size_t> shape;
    const Matrix train = read_features(words[1]), test = read_features(words[4]);
    const std::vector<std::int64_t> given = read_npy<std::int64_t>(words[2], "<i8", shape);
    if (given.size() != train.rows || given.empty()) throw std::runtime_error("there is not one label for each image");
    if (test.columns != train.columns) throw std::runtime_error("images to learn and to tell have other features");
    if (*std::min_element(given.begin(), given.end()) < 0) throw std::runtime_error("a label is below 0");
    const std::vector<std::size_t> labels(given.begin(), given.end());
    const std::size_t classes = *std::max_element(labels.begin(), labels.end()) + 1;

    const Matrix found = scores(learn(train, labels, classes, std::stod(words[3])), test);
    write_npy(words[5], found);
    for (std::size_t i = 0; i < found.rows; ++i) {
        const double* row = &found.values[i * classes];
        std::cout << std::max_element(row, row + classes) - row << '\n';
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << "learn: " << error.what() << '\n';
    return 2;
}
