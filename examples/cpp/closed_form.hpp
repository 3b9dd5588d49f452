// Learns a classifier of features in closed form, as edge-s2a learn does: ridge regression of class indicators on
// standardised features. C++17, nothing but the standard library. Copy this file into your program.
//
// Z are the standardised features of n images, d those of them that are not constant, T the indicators of the classes
// less the share of each class, and lambda is added to the diagonal:
//
//     fewer images than features    W = Z^T (Z Z^T / d + lambda I)^-1 T / d
//     otherwise                     W = (Z^T Z / d + lambda I)^-1 Z^T T / d
//
// scores = Z W + shares; the largest is that of the likeliest class.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

struct Matrix {
    std::size_t rows = 0, columns = 0;
    std::vector<double> values; // row by row

    Matrix(std::size_t rows, std::size_t columns) : rows(rows), columns(columns), values(rows * columns) {}
    double& operator()(std::size_t row, std::size_t column) { return values[row * columns + column]; }
    double operator()(std::size_t row, std::size_t column) const { return values[row * columns + column]; }
};

struct Classifier {
    Matrix weight;            // (features, classes), of features as they are
    std::vector<double> bias; // (classes)
};

// (rows of a, columns of b)
inline Matrix product(const Matrix& a, const Matrix& b) {
    Matrix result(a.rows, b.columns);
    for (std::size_t i = 0; i < a.rows; ++i)
        for (std::size_t k = 0; k < a.columns; ++k)
            for (std::size_t j = 0; j < b.columns; ++j) result(i, j) += a(i, k) * b(k, j);
    return result;
}

inline Matrix transposed(const Matrix& a) {
    Matrix result(a.columns, a.rows);
    for (std::size_t i = 0; i < a.rows; ++i)
        for (std::size_t j = 0; j < a.columns; ++j) result(j, i) = a(i, j);
    return result;
}

// The x of a x = b for a symmetric, positive definite a, by Cholesky: a = L L^T.
inline Matrix solved(Matrix a, Matrix b) {
    for (std::size_t j = 0; j < a.rows; ++j)
        for (std::size_t i = j; i < a.rows; ++i) {
            for (std::size_t k = 0; k < j; ++k) a(i, j) -= a(i, k) * a(j, k);
            if (i == j && !(a(j, j) > 0)) throw std::domain_error("lambda is too small");
            a(i, j) = i == j ? std::sqrt(a(j, j)) : a(i, j) / a(j, j);
        }
    for (std::size_t c = 0; c < b.columns; ++c) {
        for (std::size_t i = 0; i < a.rows; ++i) {
            for (std::size_t k = 0; k < i; ++k) b(i, c) -= a(i, k) * b(k, c);
            b(i, c) /= a(i, i);
        }
        for (std::size_t i = a.rows; i-- > 0;) {
            for (std::size_t k = i + 1; k < a.rows; ++k) b(i, c) -= a(k, i) * b(k, c);
            b(i, c) /= a(i, i);
        }
    }
    return b;
}

// features: (images, features). labels: the class of each image, below `classes`. lambda: above 0.
inline Classifier learn(Matrix features, const std::vector<std::size_t>& labels, std::size_t classes, double lambda) {
    if (!(lambda > 0)) throw std::domain_error("lambda is not above 0");
    const std::size_t images = features.rows, width = features.columns;
    const double count = static_cast<double>(images);
    std::vector<double> mean(width), scale(width), shares(classes);
    double used = 0;
    for (std::size_t j = 0; j < width; ++j) {
        double variance = 0;
        for (std::size_t i = 0; i < images; ++i) mean[j] += features(i, j) / count;
        for (std::size_t i = 0; i < images; ++i) variance += std::pow(features(i, j) - mean[j], 2) / count;
        // A feature that is the same in all images but for rounding says nothing of their classes.
        if (variance > 1e-12 * (variance + mean[j] * mean[j])) scale[j] = 1 / std::sqrt(variance), ++used;
        for (std::size_t i = 0; i < images; ++i) features(i, j) = (features(i, j) - mean[j]) * scale[j];
    }
    for (std::size_t label : labels) shares.at(label) += 1 / count;
    Matrix targets(images, classes);
    for (std::size_t i = 0; i < images; ++i)
        for (std::size_t c = 0; c < classes; ++c) targets(i, c) = ((labels[i] == c) - shares[c]) / (used ? used : 1);

    const Matrix& z = features;
    const Matrix zt = transposed(z);
    const bool dual = images < width;
    Matrix gram = dual ? product(z, zt) : product(zt, z);
    for (double& value : gram.values) value /= used ? used : 1;
    for (std::size_t i = 0; i < gram.rows; ++i) gram(i, i) += lambda;
    Classifier found{dual ? product(zt, solved(gram, targets)) : solved(gram, product(zt, targets)), shares};

    for (std::size_t j = 0; j < width; ++j)
        for (std::size_t c = 0; c < classes; ++c) {
            found.weight(j, c) *= scale[j];
            found.bias[c] -= found.weight(j, c) * mean[j];
        }
    return found;
}

// (images, classes) of features (images, features).
inline Matrix scores(const Classifier& classifier, const Matrix& features) {
    Matrix result = product(features, classifier.weight);
    for (std::size_t i = 0; i < result.rows; ++i)
        for (std::size_t c = 0; c < result.columns; ++c) result(i, c) += classifier.bias[c];
    return result;
}
